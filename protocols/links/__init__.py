"""The only place with ZeroMQ: commands, credit-based data streams, the stop socket."""
