-- What was committed of one satellite, the latest first.
create index catalogue_of on catalogue (sat, committed, payload);
