package main

// table lists the faults. Each is a mistake that a developer could make, and that users would
// suffer from. The replaced text is short, and occurs once in its file.
func table() []mutant {
	const (
		chat  = "./chat"
		feed  = "./feed"
		graph = "./graph"
		auth  = "./auth"
		wire  = "./wire"
		e2e   = "./e2e"

		migrations = "./migrations"
	)
	return []mutant{
		// Broadcast events.
		{
			"live events are delivered twice", "feed/sink.go", "if e.Seq <= fo.seen.Seq {",
			"if false {",
			feed, "TestASinkGetsNoEventTwice",
		},
		{
			"@perViewer is ignored", "graph/broadcastkey.go",
			` || s.Definition.Directives.ForName("perViewer") != nil`, "",
			graph, "TestEachFollowerIsShownTheirOwn",
		},
		{
			"hidden history is broadcast", "graph/broadcast.go", "return hidden == 0",
			"return hidden >= 0",
			graph, "TestEachFollowerIsShownTheirOwn",
		},
		{
			"answers for other variables are broadcast", "graph/broadcastkey.go",
			"u.used[v.Raw] = value", "_ = value",
			graph, "TestEachFollowerIsShownTheirOwn",
		},
		{
			"sharing ignores hidden history", "feed/sink.go", "!sink.Accepts(bounds.Hidden)",
			"!sink.Accepts(0)",
			graph, "TestEachFollowerIsShownTheirOwn|TestHistoryThatBecomesHidden",
		},
		{
			"an answer of after a removal is broadcast", "graph/broadcast.go",
			"return err == nil && !removed", "return err == nil || !removed",
			graph, "TestABroadcastAnswerShowsNothing",
		},
		{
			"live events without a look at revocations", "graph/broadcast.go",
			"if !s.resolver.Auth.Watches() {", "if false {",
			graph, "TestNothingIsDelivered",
		},
		{
			"replayed events without a look at revocations", "graph/broadcast.go",
			"if err := s.resolver.Auth.AwaitWatch(ctx); err != nil {",
			"if err := ctx.Err(); err != nil {", graph, "TestNothingIsDelivered",
		},
		{
			"streams without a look at revocations", "graph/subscription.go",
			"if r.Auth.AwaitWatch(ctx) != nil {", "if ctx.Err() != nil {",
			graph, "TestNothingIsDelivered",
		},

		// Following: order, resume, removal.
		{
			"a removal is noticed only in the order of seqs", "feed/feed.go",
			"if e.Seq > f.edge.Seq {", "if false {",
			feed, "TestARemovalEndsASinkWhenItsHintComes",
		},
		{
			"a page continues after a removal", "feed/follower.go",
			"for _, e := range events {\n\t\t\tif fo.isRemoved() {",
			"for _, e := range events {\n\t\t\tif false {", feed, "TestARemovalEndsASlowSink",
		},
		{
			"queued events continue after a removal", "feed/follower.go",
			"\t\tif fo.isRemoved() {\n\t\t\treturn fo.deliverRemoval(ctx, " +
				"deliver)\n\t\t}\n\t\tif err := fo.deliver(e, deliver); err != nil " +
				"{\n\t\t\treturn err\n\t\t}\n\t}\n\treturn nil",
			"\t\tif err := fo.deliver(e, deliver); err != nil {\n\t\t\treturn " +
				"err\n\t\t}\n\t}\n\treturn nil", feed, "TestARemovalEndsASlowSink",
		},
		{
			"removals after the last read event are missed", "feed/feed.go", "range removals {",
			"range removals[:0] {",
			feed, "TestARemovedMemberDoesNotReadLaterEdits",
		},
		{
			"removed and added again is not noticed", "feed/follower.go",
			"m.HiddenSeq > fo.seen.Seq:", "m == nil:",
			feed, "TestAMemberAddedAgain",
		},
		{
			"following begins one event early", "feed/follow.go",
			"return *after, nil", "return Place{Seq: max(after.Seq-1, 0)}, nil",
			feed, "TestFollowReplays|TestFollowersReceive",
		},
		{
			"following begins in hidden history", "feed/follow.go",
			"return Place{Seq: bounds.Hidden}, nil", "return Place{Seq: after.Seq}, nil",
			feed, "TestSinksGetWhatTheirMembersMaySee",
		},
		{
			"one hidden message is followed", "feed/follower.go", "e.Message.Seq <= fo.hidden",
			"e.Message.Seq < fo.hidden",
			feed, "TestHiddenMessagesInAStream",
		},
		{
			"a feed reads the same events again", "feed/feed.go",
			"f.edge = placeOf(events[len(events)-1])", "_ = f.edge",
			feed, "TestAFeedReadsAGapOnce",
		},
		{
			"a late follower misses earlier events", "feed/feed.go",
			"fo.seen.Seq < newest {", "fo.seen.Seq < newest-newest {",
			feed, "TestFollowReplays",
		},
		{
			"a cursor skips an event", "feed/viewerresume.go",
			"start[id] = Place{Seq: *own.First - 1}", "start[id] = Place{Seq: *own.First}",
			feed, "TestNoEventFallsBetween|TestViewerEventsAreWhatIsStored",
		},
		{
			"another account's cursor is accepted", "feed/viewercursor.go", "h.Write(owner[:])",
			"_ = owner",
			feed, "TestAnInvalidCursorIsRefused",
		},
		{
			"hints of other conversations are accepted", "feed/hint.go",
			"if e.ConversationID != id || e.Seq != seq ||", "if e.Seq != seq ||",
			feed, "TestBrokenHints",
		},
		{
			"hints of other versions are accepted", "feed/hint.go",
			"if wire.Version != hintVersion || ", "if ",
			feed, "TestHintsOfWhichOnlyTheSeqIsUsed",
		},
		{
			"hints without their messages are accepted", "feed/hint.go",
			"h.Events = nil // the feed reads them", "_ = h",
			feed, "TestHintsOfWhichOnlyTheSeqIsUsed",
		},

		// Restored databases.
		{
			"marks are not compared", "model/mark.go",
			"return m == other || m == 0 || other == 0", "return true",
			e2e, "TestVerifyRestores",
		},
		{
			"a place does not prove its event", "feed/event.go",
			"events[0].Mark().Matches(after.Mark)", "true",
			feed, "TestAPlaceProvesItsHistory",
		},
		{
			"a hint's event follows another history", "feed/feed.go",
			"if !e.Before.Matches(f.edge.Mark) {", "if false {",
			feed, "TestLiveFollowersNoticeAnotherHistory",
		},
		{
			"a lost checkpoint is not missed", "feed/checkpoint.go",
			`Where("id = ?", checkpoint).`, "",
			feed, "TestViewerEventsNoticeAnotherHistory",
		},

		// Visibility.
		{
			"lists contain hidden messages", "chat/message.go",
			`viewer.conversation_id AND m.seq > viewer.hidden_seq",`, `viewer.conversation_id",`,
			chat, "TestHistoryVisibility",
		},
		{
			"hidden messages are found by id", "chat/message.go",
			"\n\t\tWhere(\"m.seq > viewer.hidden_seq\").\n\t\tWhere(\"m.id", "\n\t\tWhere(\"m.id",
			chat, "TestHistoryVisibility|TestHiddenMessagesCannotBeChanged",
		},
		{
			"a hidden last message is shown", "chat/message.go",
			"IN (?2...)\n\t\t\tAND m.seq > viewer.hidden_seq`", "IN (?2...)`",
			chat, "TestHistoryVisibility|TestHiddenMessagesCannotBeChanged",
		},
		{
			"searches find hidden messages", "chat/search.go",
			"\n\t\tWhere(\"m.seq > viewer.hidden_seq\").Apply(", "\n\t\tApply(",
			chat, "TestSearchFindsOnlyTheActorsConversations",
		},
		{
			"reactions to hidden messages are shown", "chat/reaction.go",
			`Where("m.seq > viewer.hidden_seq").Where("r.message_id`, `Where("r.message_id`,
			chat, "TestMessageVisibility|TestHiddenMessagesCannotBeChanged",
		},
		{
			"mentions in hidden messages are shown", "chat/mention.go",
			"\n\t\tWhere(\"mn.seq > viewer.hidden_seq\").", "",
			chat, "TestMentions|TestMessageVisibility|TestHiddenMessagesCannotBeChanged",
		},
		{
			"readers of hidden messages are shown", "chat/page.go",
			"viewer.user_id = ?1 \" +\n\t\t\"AND m.seq > viewer.hidden_seq\"",
			"viewer.user_id = ?1\"",
			chat, "TestSeenBy|TestMessageVisibility",
		},
		{
			"reactors to hidden messages are shown", "chat/reaction.go",
			"viewer.user_id = ?1 \" +\n\t\t\"AND g.seq > viewer.hidden_seq\"",
			"viewer.user_id = ?1\"",
			chat, "TestMessageVisibility",
		},
		{
			"hidden messages can be replied to", "chat/message.go", "!there || seq <= hidden {",
			"!there || seq <= min(hidden, 0) {",
			chat, "TestHistoryVisibility|TestHiddenMessagesCannotBeChanged",
		},
		{
			"others' drafts are shown", "chat/member.go", "WHERE cm.user_id = ?1 AND cm",
			"WHERE (cm.user_id = ?1 OR cm.draft <> '') AND cm",
			chat, "TestMembershipsReturnsOnlyTheActorsOwn",
		},
		{
			"others' memberships show their secrets", "graph/member.go",
			"return err == nil && viewer.UserID == m.UserID",
			"return err == nil && viewer.UserID != m.UserID || true",
			graph, "TestOthersMemberships",
		},
		{
			"members without read receipts see those of others", "chat/read.go",
			"|| viewer.SendReadReceipts && user", "|| user",
			chat, "TestLastReadIsMutual",
		},
		{
			"a deleted message keeps its content", "chat/edit.go",
			"m.Content, m.RequestHash, m.DeletedAt = \"\", nil, new(e.At)",
			"m.RequestHash, m.DeletedAt = nil, new(e.At)",
			chat, "TestNothingIsLeftOfADeletedMessage",
		},

		// Permissions.
		{
			"a batch does not check membership", "chat/message.go", "if !member || b.heads",
			"if false && !member || b.heads",
			chat,
			"TestSendMessageIsForMembers|TestBatchChecksEachMessage|TestRemovalThatWasWaitedFor",
		},
		{
			"an idempotency key works for other authors", "chat/sending_sqlite.go",
			"c.id AND author_id = ?2 AND idempotency_key", "c.id AND idempotency_key",
			chat, "TestTheSameKey",
		},
		{
			"membership is read before the lock", "chat/roster.go",
			"\t\tif err := tx.Lock(ctx, (*model.Conversation)(nil), \"id = ?\", id); err != nil " +
				"{\n\t\t\treturn err\n\t\t}\n" +
				"\t\tc = &change{tx: tx, actor: actor, conversation: " +
				"new(model.Conversation)}\n\t\tvar err error\n" +
				"\t\tif c.member, err = membership.Of(ctx, tx, actor, id); err != nil " +
				"{\n\t\t\treturn " +
				"err\n\t\t}\n",
			"\t\tc = &change{tx: tx, actor: actor, conversation: " +
				"new(model.Conversation)}\n\t\tvar err error\n" +
				"\t\tif c.member, err = membership.Of(ctx, tx, actor, id); err != nil " +
				"{\n\t\t\treturn " +
				"err\n\t\t}\n" +
				"\t\tif err := tx.Lock(ctx, (*model.Conversation)(nil), \"id = ?\", id); err != " +
				"nil {\n\t\t\treturn err\n\t\t}\n",
			chat, "TestRemovalThatWasWaitedFor",
		},
		{
			"admins add admins", "chat/roster.go",
			"case m.Role == model.Admin && c.member.Role != model.Owner:", "case false:",
			chat, "TestRosterPermissions",
		},
		{
			"new members see one message from before", "chat/roster.go",
			"row.HiddenSeq = c.conversation.LastSeq - 1",
			"row.HiddenSeq = c.conversation.LastSeq - 2",
			chat, "TestHistoryVisibility",
		},
		{
			"the gate does not ask", "graph/gate.go", "if !isPublic(field.Object, field.Field) {",
			"if false {",
			graph, "TestAnonymousClientsReach|TestTheGateAsks",
		},
		{
			"one more field is public", "schema.graphqls", "presence: Presence @perViewer",
			"presence: Presence @perViewer @public",
			graph, "TestPublicFields",
		},
		{
			"signing in counts for the next field", "graph/gate.go", "identityOf(ctx).copy())",
			"identityOf(ctx))",
			graph, "TestSigningInCounts",
		},
		{
			"userErrors have no input path", "graph/errors.go",
			`append([]string{"input"}, e.Path...)`, `[]string{"input"}`,
			graph, "TestWhatGoesWrong",
		},

		// Sessions, streams, limits.
		{
			"a stream takes another account's operations", "graph/liveconnections.go",
			"return a.Actor.UserID == b.Actor.UserID", "return a.Actor.UserID == a.Actor.UserID",
			graph, "TestAStreamIsOfOneAccount",
		},
		{
			"a stream takes an anonymous client's operations", "graph/liveconnections.go",
			"return a == nil && b == nil", "return a == nil || b == nil",
			graph, "TestAStreamIsOfOneAccount",
		},
		{
			"a stream does not authenticate", "wire/reserve.go",
			"if !s.opts.SameCaller(st.ctx, r.Context()) {", "if false {",
			wire, "TestSingleConnection",
		},
		{
			"revocations do not end leases", "auth/watch.go", "s.endLeases(ended...)",
			"_ = ended",
			auth, "TestLeasesOnOtherNodes",
		},
		{
			"a lease outlives its session on this node", "auth/lease.go",
			"ended = append(ended, l)", "_ = l",
			auth, "TestLeasesEndWithTheirSession",
		},
		{
			"the grace has no end", "auth/session.go", "<= refreshGrace:",
			"<= 1000*refreshGrace:",
			auth, "TestRefreshAfterTheGrace",
		},
		{
			"a used token passes for one that is ahead", "auth/session.go", "count > stored",
			"count != stored",
			auth, "TestRefreshAfterTheGrace",
		},
		{
			"a token ahead of the database is theft", "auth/session.go",
			"counted && count > stored",
			"false && counted && count > stored",
			auth, "TestRefreshWithATokenAhead",
		},
		{
			"any session can be revoked", "auth/session.go", "if !slices.Contains(own, id) {",
			"if own == nil {",
			auth, "TestSessionsAreTheActorsOwn",
		},
		{
			"a socket is renewed by another account", "auth/session.go",
			"if err == nil && foreign {", "if err == nil && foreign && false {",
			auth, "TestRefresh|TestRenew",
		},
		{
			"twice as many attempts", "ratelimit/ratelimit.go",
			"time.Duration(r.Burst) * r.Every", "time.Duration(2*r.Burst) * r.Every",
			auth, "TestLimits",
		},
		{
			"connections of an account have no bound", "graph/liveconnections.go",
			"if c.open[key] >= c.max {", "if false {",
			graph, "TestLiveConnections",
		},

		// Migrations.
		{
			"migrations wait for locks without end", "migrations/apply.go",
			`"SET LOCAL lock_timeout = %d; "+`, `"SET LOCAL lock_timeout = 0 * %d; "+`,
			migrations, "TestUpTriesAgain",
		},
		{
			"migrations are not tried again after a deadlock", "migrations/apply.go",
			`pgErr.Code == "40P01"`, `pgErr.Code == ""`,
			migrations, "TestUpOutlivesADeadlock",
		},
		{
			"a migration that another process has applied runs again", "migrations/apply.go",
			"applied == r.up {", "applied == r.up && ctx == nil {",
			migrations, "TestManyNodes",
		},
		{
			"migrations of before the records are not recorded", "migrations/apply.go",
			"append(slices.Clone(r.waiting), r.m.known[i])", "r.m.known[i : i+1]",
			migrations, "TestUpDownAndUpAgain",
		},
		{
			"a database that is too new is used", "migrations/check.go",
			`a.Requires != "" && !m.knows(a.Requires)`, "false",
			migrations, "TestUnknownMigrations",
		},
		{
			"each check logs unknown migrations", "migrations/check.go",
			"before == nil || *before != unknown", "before == nil || true",
			migrations, "TestUnknownMigrations",
		},
		{
			"a database that is too old is used", "migrations/check.go",
			"if len(missing) == 0 {", "if len(missing) < len(m.known) {",
			migrations, "TestTooOld",
		},
		{
			"changed files are not noticed", "migrations/check.go",
			"a.Checksum != k.checksum", "false",
			migrations, "TestChangedFiles",
		},
		{
			"down reverts what another version has applied", "migrations/apply.go",
			"if i < 0 {", "if i < 0 {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tif i < -1 {",
			migrations, "TestDownRevertsOneGroup",
		},
		{
			"a node is ready on tables that it cannot use", "server.go",
			"errors.Join(srv.tables.Check(ctx), ", "errors.Join(",
			".", "TestTablesOfAnotherVersion",
		},
	}
}
