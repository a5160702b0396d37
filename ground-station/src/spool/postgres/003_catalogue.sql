-- What was ever committed, also what has left the spool; the oldest go. `committed` is in the record too.
create table catalogue (
  sat bigint not null, payload bigint not null, committed bigint not null, record bytea not null,
  primary key (sat, payload)
);
create index catalogue_committed on catalogue (committed, sat, payload);
