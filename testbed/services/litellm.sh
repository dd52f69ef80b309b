about="LiteLLM, the proxy that measurements of the gateway are compared with; a program, no server, about 700 MB"
port=0
install() { venv litellm "$here/services/_litellm.txt"; }
start() { :; }
ready() { [ -x "$H/venv/litellm/bin/litellm" ]; }
url() { echo "$H/venv/litellm/bin/litellm"; }
