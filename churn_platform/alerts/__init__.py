"""Messages to the retention team and to operators: targets, senders, the outbox, operator conditions."""
