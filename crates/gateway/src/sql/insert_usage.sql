-- One row of usage, in the order of the table's columns. A row that is there already stays as it is.
INSERT INTO ai_usage (
    id, project, at_us, key_id, key_name, person, route, provider, model, operation, streaming, tier,
    input, cache_read, cache_write_5m, cache_write_1h, audio_input, output, reasoning, audio_output,
    estimated, cost_usd_nanos, price_row, price_table, ending, status, cache, first_byte_us, took_us, receipt, batch, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
