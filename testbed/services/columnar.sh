about="pyarrow and duckdb: what others read from our Parquet files; a Python, no server"
port=0
install() { venv columnar "$here/services/_columnar.txt"; }
start() { :; }
ready() { [ -x "$H/venv/columnar/bin/python3" ]; }
url() { echo "$H/venv/columnar/bin/python3"; }
