DROP TABLE restorations;
--bun:split
DROP TABLE refresh_counts;
