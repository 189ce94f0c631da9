"""Credit metering for AI-agent runs: who pays, from which pools, recorded exactly once."""
