"""The operator's command line, `agent-credits`."""
