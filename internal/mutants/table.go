package main

// table lists the faults. Each is a mistake that a developer could make, and that users would
// suffer from. The replaced text is short, and occurs once in its file.
func table() []mutant {
	const (
		chat  = "./chat"
		graph = "./graph"
		auth  = "./auth"
		wire  = "./wire"
	)
	return []mutant{
		// Broadcast events.
		{
			"live events are delivered twice", "chat/sink.go", "if e.Seq <= fo.seen {",
			"if false {",
			chat, "TestNothingIsHandedToASinkTwice",
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
			"sharing ignores hidden history", "chat/sink.go", "!sink.Accepts(hidden)",
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
			"a removal is noticed only in the order of seqs", "chat/feed.go", "if e.Seq > f.edge {",
			"if false {",
			chat, "TestARemovalIsNoticed",
		},
		{
			"a page continues after a removal", "chat/follow.go",
			"for _, e := range events {\n\t\t\tif fo.isRemoved() {",
			"for _, e := range events {\n\t\t\tif false {", chat, "TestARemovalEnds",
		},
		{
			"queued events continue after a removal", "chat/follow.go",
			"\t\tif fo.isRemoved() {\n\t\t\treturn fo.deliverRemoval(ctx, " +
				"deliver)\n\t\t}\n\t\tif err := fo.deliver(e, deliver); err != nil " +
				"{\n\t\t\treturn err\n\t\t}\n\t}\n\treturn nil",
			"\t\tif err := fo.deliver(e, deliver); err != nil {\n\t\t\treturn " +
				"err\n\t\t}\n\t}\n\treturn nil", chat, "TestARemovalEnds",
		},
		{
			"removals after the last read event are missed", "chat/feed.go", "range removals {",
			"range removals[:0] {",
			chat, "TestWhatIsWrittenAfterARemoval",
		},
		{
			"removed and added again is not noticed", "chat/follow.go", "m.HiddenSeq > fo.seen {",
			"m == nil {",
			chat, "TestRemovedAndBack",
		},
		{
			"following begins one event early", "chat/sink.go", "return max(*after, hidden), nil",
			"return max(*after-1, hidden), nil",
			chat, "TestFollowReplays|TestFollowersReceive",
		},
		{
			"following begins in hidden history", "chat/sink.go", "return max(*after, hidden), nil",
			"return *after, nil",
			chat, "TestHistoryVisibility|TestSinksAreHanded",
		},
		{
			"one hidden message is followed", "chat/follow.go", "e.Message.Seq <= fo.hidden",
			"e.Message.Seq < fo.hidden",
			chat, "TestWhatIsHiddenInAStream",
		},
		{
			"a feed reads the same events again", "chat/feed.go",
			"f.edge = events[len(events)-1].Seq", "_ = f.edge",
			chat, "TestWhatAFeedHasRead",
		},
		{
			"a late follower misses earlier events", "chat/feed.go",
			"if fo.seen < max(f.edge, last) {", "if fo.seen < 0 {",
			chat, "TestFollowReplays",
		},
		{
			"a cursor skips an event", "chat/myevents.go", "start[id] = *own.First - 1",
			"start[id] = *own.First",
			chat, "TestNothingFallsBetween|TestMyEventsTells",
		},
		{
			"another account's cursor is accepted", "chat/mycursor.go", "h.Write(owner[:])",
			"_ = owner",
			chat, "TestWhatIsNoCursorOfMine",
		},
		{
			"hints of other conversations are accepted", "chat/hint.go",
			"if e.ConversationID != id || e.Seq != seq ||", "if e.Seq != seq ||",
			chat, "TestBrokenHints",
		},
		{
			"hints of other versions are accepted", "chat/hint.go",
			"if wire.Version != hintVersion || ", "if ",
			chat, "TestHintsThatAreTaken",
		},
		{
			"hints without their messages are accepted", "chat/hint.go",
			"h.events = nil // the followers read them", "_ = h",
			chat, "TestHintsThatAreTaken",
		},

		// Visibility.
		{
			"lists contain hidden messages", "chat/message.go",
			` AND m.seq > viewer.hidden_seq", alias: "m"`, `", alias: "m"`,
			chat, "TestHistoryVisibility",
		},
		{
			"hidden messages are found by id", "chat/message.go",
			"Apply(sharedWith(actor, \"m.conversation_id\")).Where(\"m.seq > viewer.hidden_seq\").",
			"Apply(sharedWith(actor, \"m.conversation_id\")).", chat,
			"TestHistoryVisibility|TestWhatIsHidden",
		},
		{
			"a hidden last message is shown", "chat/message.go",
			"IN (?2...) AND m.seq > viewer.hidden_seq`", "IN (?2...)`",
			chat, "TestHistoryVisibility|TestWhatIsHidden",
		},
		{
			"searches find hidden messages", "chat/search.go",
			"\n\t\tWhere(\"m.seq > viewer.hidden_seq\").Apply(", "\n\t\tApply(",
			chat, "TestSearchFindsOnlyOnesOwn",
		},
		{
			"reactions to hidden messages are shown", "chat/reaction.go",
			`Where("m.seq > viewer.hidden_seq").Where("r.message_id`, `Where("r.message_id`,
			chat, "TestWhoSeesAMessage|TestWhatIsHidden",
		},
		{
			"reactors to hidden messages are shown", "chat/reaction.go",
			`Where("m.seq > viewer.hidden_seq").Where("g.message_id`, `Where("g.message_id`,
			chat, "TestWhoSeesAMessage|TestWhatIsHidden",
		},
		{
			"mentions in hidden messages are shown", "chat/mention.go",
			`.Where("mn.seq > viewer.hidden_seq")`, "",
			chat, "TestMentions|TestWhoSeesAMessage|TestWhatIsHidden",
		},
		{
			"readers of hidden messages are shown", "chat/read.go",
			`.Where("m.seq > viewer.hidden_seq")`, "",
			chat, "TestSeenBy",
		},
		{
			"hidden messages can be replied to", "chat/message.go", "!there || seq <= hidden {",
			"!there || seq <= min(hidden, 0) {",
			chat, "TestHistoryVisibility|TestWhatIsHidden",
		},
		{
			"others' drafts are shown", "chat/member.go", "WHERE cm.user_id = ?1 AND cm",
			"WHERE (cm.user_id = ?1 OR cm.draft <> '') AND cm",
			chat, "TestMembershipsAreOnesOwn",
		},
		{
			"others' memberships show their secrets", "graph/member.go",
			"return err == nil && viewer.UserID == m.UserID",
			"return err == nil && viewer.UserID != m.UserID || true",
			graph, "TestOthersMemberships",
		},
		{
			"members without read receipts see those of others", "chat/read.go",
			"|| viewer.SendReadReceipts && of", "|| of",
			chat, "TestLastReadIsMutual",
		},
		{
			"a deleted message keeps its content", "chat/edit.go",
			"m.Content, m.RequestHash, m.DeletedAt = \"\", nil, &p.at",
			"m.RequestHash, m.DeletedAt = nil, &p.at",
			chat, "TestNothingIsLeftOfADeletedMessage",
		},

		// Permissions.
		{
			"a batch does not check membership", "chat/message.go", "if !member || k.places",
			"if false && !member || k.places",
			chat, "TestSendMessageIsForMembers|TestABatchJudges|TestARemovalThatWasWaitedFor",
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
				"\t\tif c.member, err = memberOf(ctx, tx, actor, id); err != nil {\n\t\t\treturn " +
				"err\n\t\t}\n",
			"\t\tc = &change{tx: tx, actor: actor, conversation: " +
				"new(model.Conversation)}\n\t\tvar err error\n" +
				"\t\tif c.member, err = memberOf(ctx, tx, actor, id); err != nil {\n\t\t\treturn " +
				"err\n\t\t}\n" +
				"\t\tif err := tx.Lock(ctx, (*model.Conversation)(nil), \"id = ?\", id); err != " +
				"nil {\n\t\t\treturn err\n\t\t}\n",
			chat, "TestARemovalThatWasWaitedFor",
		},
		{
			"admins add admins", "chat/roster.go",
			"case m.Role == model.Admin && c.member.Role != model.Owner:", "case false:",
			chat, "TestWhoMayDoWhat",
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
			"the grace has no end", "auth/session.go", "<= refreshGrace {",
			"<= 1000*refreshGrace {",
			auth, "TestRefreshAfterTheGrace",
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
	}
}
