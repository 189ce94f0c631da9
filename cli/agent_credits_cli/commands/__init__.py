"""The commands of `agent-credits`, one module each. None imports another."""
