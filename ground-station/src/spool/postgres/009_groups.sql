-- What segments in `recent` were made of: the message Groups of the link.
create table segment_groups (
  sat bigint not null, epoch bigint not null, lane bigint not null, sequence bigint not null, record bytea not null,
  primary key (sat, epoch, lane, sequence)
);
