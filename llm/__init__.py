"""Messages to tokens and tool calls."""
