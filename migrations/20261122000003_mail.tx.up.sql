CREATE TABLE mails (
  id              {{.UUID}} NOT NULL PRIMARY KEY,
  key             text NOT NULL,
  kind            text NOT NULL,
  recipient       text NOT NULL,
  nickname        text NOT NULL,
  link            text NOT NULL,
  created_at      {{.Time}} NOT NULL,
  next_attempt_at {{.Time}} NOT NULL,
  attempts        integer NOT NULL,
  claimed_until   {{.Time}},
  started_at      {{.Time}},
  sent_at         {{.Time}},
  failed_at       {{.Time}},
  last_error      text,
  CONSTRAINT mails_key_unique UNIQUE (key),
  CONSTRAINT mails_wiped_check CHECK (
    (sent_at IS NULL AND failed_at IS NULL) OR (recipient = '' AND nickname = '' AND link = '')
  )
);
--bun:split
CREATE INDEX mails_next_attempt_at ON mails (next_attempt_at) WHERE sent_at IS NULL AND failed_at IS NULL;
--bun:split
CREATE INDEX mails_created_at ON mails (created_at);
