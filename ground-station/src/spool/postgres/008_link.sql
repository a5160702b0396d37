-- Links that are open, as each process says with its beat; a row counts while the one in `worker` does.
create table open_link (
  sat bigint not null, owner bigint not null,
  primary key (sat, owner)
);
