#!/usr/bin/env bash
# A tour: a small, untidy archive of pictures is made, scored and sorted out. docs/tour.md shows what it prints.
#
#     pip install 'metaqap-fast[review]'      # review: the page
#     examples/tour.sh [FOLDER]               # where it works and leaves its results; without one, nothing is left
#
# It takes under two minutes on two cores, and changes nothing outside of the folder.
set -euo pipefail

examples=$(cd "$(dirname "$0")" && pwd)
python=$(dirname "$(command -v metaqap-fast)")/python
if [ $# -gt 0 ]; then
    mkdir -p "$1" && cd "$1"
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
fi

# Shows a command and what it prints on either stream. A status other than 0 is shown, and does not end the tour.
run() {
    local status=0
    printf '$ %s\n' "$*"
    "$@" 2>&1 || status=$?
    [ $status = 0 ] || echo "(exit status $status)"
    echo
}

# ---- an archive as archives are --------------------------------------------------------------------------------------

mkdir -p photos/2019 photos/2020/phone photos/scans photos/unsorted
cp "$examples"/{astronaut,chelsea,rocket}.jpg photos/2019/
cp "$examples"/{coffee,coffee_blurred}.jpg photos/2020/
cp "$examples"/coffee_jpeg_q8.jpg 'photos/2020/phone/IMG_0001 (1).jpg'   # through a messenger
cp "$examples"/chelsea.jpg 'photos/unsorted/chelsea copy.jpg'
head -c 30000 "$examples/rocket.jpg" >photos/unsorted/half.jpg           # a copy that broke off
: >photos/unsorted/empty.jpg
cp "$examples"/not_an_image.jpg photos/unsorted/
echo "to be sorted" >photos/unsorted/notes.txt
"$python" - "$examples" <<'END'
import sys
from pathlib import Path

from PIL import Image

examples = Path(sys.argv[1])
scans = ("astronaut", "png", 440), ("rocket", "tif", 500), ("coffee", "bmp", 520), ("chelsea", "webp", 400)
for name, ending, width in scans:
    image = Image.open(examples / f"{name}.jpg")
    image.resize((width, width * image.height // image.width)).save(f"photos/scans/{name}.{ending}")
Image.open(examples / "chelsea.jpg").resize((120, 80)).save("photos/scans/thumbnail.gif")
turned = Image.open(examples / "astronaut.jpg")
turned.getexif()[0x0112] = 6  # the camera was held upright
turned.save("photos/2020/phone/IMG_0002.jpg", quality=92, exif=turned.getexif())
END
tar -cf photos/2018.tar -C "$examples" rocket.jpg astronaut_noisy.jpg
tar -czf photos/2017.tar.gz -C "$examples" coffee.jpg coffee_blurred.jpg

# ---- what is in it, and how good is it -------------------------------------------------------------------------------

run metaqap-fast score photos --dry-run
run metaqap-fast score photos -o scores.h5 --precision fp32
run metaqap-fast inspect scores.h5

# ---- looking at it ---------------------------------------------------------------------------------------------------

run metaqap-fast report scores.h5
run metaqap-fast select scores.h5 --worst 3
run metaqap-fast select scores.h5 --status failed
run metaqap-fast select scores.h5 --duplicates
run metaqap-fast export scores.h5 scores.csv
run head -n 4 scores.csv

# ---- acting on it ----------------------------------------------------------------------------------------------------

run metaqap-fast select scores.h5 --duplicates --sure 0.9 --move duplicates --yes
run metaqap-fast select scores.h5 --status failed --move broken --yes
run ls -R duplicates broken
run sh duplicates/undo-*.sh

# ---- the next night --------------------------------------------------------------------------------------------------

cp "$examples"/rocket.jpg photos/2020/
run metaqap-fast score photos -o scores.h5 --precision fp32 --resume
