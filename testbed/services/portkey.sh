about="Portkey's gateway, the proxy that measurements of the gateway are compared with; a program, no server"
port=0
install() { node_modules portkey @portkey-ai/gateway@1.15.2; }
start() { :; }
ready() { [ -f "$(url)" ]; }
url() { echo "$H/npm/portkey/node_modules/@portkey-ai/gateway/build/start-server.js"; }
