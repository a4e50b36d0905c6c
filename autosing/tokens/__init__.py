"""Pure values about tokens: codec and semantic specs, token patterns, text. No model lives here."""
