-- The exporters of all stations, with the signals that each one gets as bits: nothing leaves before all of them have it.
create table exporter (
  name text primary key, signals bigint not null, station text not null,
  told timestamptz not null default clock_timestamp()
);
