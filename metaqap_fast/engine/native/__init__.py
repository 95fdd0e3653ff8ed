"""The compiled engine for MobileNet-type members on a CPU."""
