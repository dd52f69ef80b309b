about="schemathesis: requests made from an OpenAPI document, and checks of what is answered; a program, no server"
port=0
install() { venv schemathesis "$here/services/_schemathesis.txt"; }
start() { :; }
ready() { [ -x "$H/venv/schemathesis/bin/schemathesis" ]; }
url() { echo "$H/venv/schemathesis/bin/schemathesis"; }
