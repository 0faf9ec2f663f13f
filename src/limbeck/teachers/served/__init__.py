"""Teachers behind HTTP that speak the OpenAI-compatible protocol: vLLM and its kin for logits, any of them for texts."""
