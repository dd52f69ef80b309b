about="llmock: providers that break on demand, and a verdict on how their client took it"
port=24011
. "$here/services/_ai.sh"
install() { python_packages; }
start() { spawn "$H/venv/ai/bin/llmock" serve --host 127.0.0.1 --port "$port" --log-level warning; }
ready() { ! port_free "$port"; }
url() { echo "http://127.0.0.1:$port"; }
