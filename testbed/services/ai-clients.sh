about="the official clients of OpenAI, Anthropic and Google, for Python and Node: a folder, no server"
port=0
. "$here/services/_ai.sh"
install() { python_packages; node_packages; }
start() { :; }
ready() { [ -x "$H/venv/ai/bin/python" ] && [ -d "$H/npm/ai/node_modules" ]; }
url() { echo "$H"; }
