about="aimock: OpenAI, Anthropic, Gemini and Azure OpenAI as others imitate them, with files, batches and fine-tuning"
port=24010
. "$here/services/_ai.sh"
install() { node_packages; }
start() {
  mkdir -p "$data/fixtures"
  cp "$here/services/aimock.json" "$data/fixtures/answers.json"
  echo '{"llm": {"fixtures": "fixtures"}}' >"$data/config.json"
  spawn node "$H/npm/ai/node_modules/@copilotkit/aimock/dist/aimock-cli.js" --config config.json --host 127.0.0.1 --port "$port"
}
ready() { ! port_free "$port"; }
url() { echo "http://127.0.0.1:$port"; }
