"""`agent-credits-demo`: the sample events and a production trace, through the embedded stack."""
