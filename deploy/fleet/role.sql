-- The role and the database of the ledger; run once as a superuser:  psql -f role.sql
-- The role is no superuser and has a bound on its connections: a fault of a station cannot use up the server.
create role perigee login connection limit 100;
create database perigee owner perigee template template0 encoding 'UTF8' locale 'C';
-- Then give it a password:  \password perigee
