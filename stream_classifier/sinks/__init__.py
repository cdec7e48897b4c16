"""From results to subscribers: durable outbox, then MQTT."""
