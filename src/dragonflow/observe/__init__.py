"""How operators see inside: logs, metrics and the controller's control socket."""
