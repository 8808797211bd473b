"""The durable record of a run: writer, reader, replay, report, export."""
