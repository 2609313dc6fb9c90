"""A WebSocket peer that sees what libraries hide (RSV bits, fragments, masks) and sends what they refuse to."""
