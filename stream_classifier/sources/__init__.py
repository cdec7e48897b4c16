"""Where samples come from: Lab Streaming Layer, and recordings played as if they were live."""
