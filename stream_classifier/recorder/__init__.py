"""What was recorded, and the evidence of each alert; detection never waits for any of it."""
