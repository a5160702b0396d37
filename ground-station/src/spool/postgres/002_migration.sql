-- Satellites whose ledger came, or comes, from a station's own file. While a row has `done` = 0 no station joins the ledger.
create table migration (
  sat bigint primary key,
  source bigint not null,
  done bigint not null default 0
);
