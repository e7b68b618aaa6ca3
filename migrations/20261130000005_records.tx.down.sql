DROP TABLE migration_records;
