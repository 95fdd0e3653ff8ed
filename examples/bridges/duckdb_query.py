"""The worst images of each folder, by SQL over a score file's export to parquet."""

import sys

import duckdb

WORST = """
    select regexp_extract(path, '^(.*)/', 1) as folder, path, score
    from read_parquet(?)
    where status = 'ok'
    qualify row_number() over (partition by folder order by score) <= 3
    order by folder, score
"""

if __name__ == "__main__":  # metaqap-fast export scores.h5 scores.parquet; python duckdb_query.py scores.parquet
    print(duckdb.execute(WORST, [sys.argv[1]]).df().to_string(index=False))
