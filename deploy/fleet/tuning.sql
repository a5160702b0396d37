-- Optional, for PostgreSQL alone:  psql -d perigee -f tuning.sql  after the first ground-station has made the tables.
-- Payloads are compressed already.
alter table segment_chunk alter column bytes set storage external;
alter table partial_chunk alter column bytes set storage external;
alter table base_chunk alter column bytes set storage external;
alter table letter_chunk alter column bytes set storage external;
-- Rows that change with every commit find room in their own page.
alter table satellite set (fillfactor = 50);
alter table committed set (fillfactor = 70);
alter table place set (fillfactor = 50);
-- What is exported is deleted soon: vacuum small and often.
alter table segment_chunk set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 1, toast.autovacuum_vacuum_scale_factor = 0.0, toast.autovacuum_vacuum_threshold = 20000);
alter table entry set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
alter table recent set (autovacuum_vacuum_scale_factor = 0.05);
alter table satellite set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
alter table place set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
