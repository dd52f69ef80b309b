# Shared by the services for the AI gateway: packages of others, in one Python environment and one folder of node modules.
python_packages() { venv ai "$here/services/_ai.txt"; }
node_packages() { node_modules ai openai@6.49.0 @anthropic-ai/sdk@1.12.0 @google/genai@2.32.0 @copilotkit/aimock@1.43.0; }
