"""From files to batches: tasks, reader, rules, tokenizer, batching, download. Imports only `common`."""
