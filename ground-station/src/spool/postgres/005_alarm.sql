-- The latest alarms of each satellite's agent.
create table alarm (sat bigint primary key, record bytea not null);
