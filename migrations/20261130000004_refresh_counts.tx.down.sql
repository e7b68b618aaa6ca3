DROP TABLE refresh_counts;
