package graph_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

// The members of a conversation change, over the wire.
func TestRosterOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("cat")
		id := s.mustConversation(ann, bob)
		in := func(fields map[string]any) map[string]any {
			fields["conversationId"] = id
			return map[string]any{"in": fields}
		}
		const change = `conversation { title historyVisibility membersMayRename
			members { nodes { user { nickname } role } } } userErrors { code path } } }`
		for _, step := range []struct {
			caller    person
			query     string
			variables map[string]any
			codes     []string
		}{
			{bob, `mutation($in: RenameConversationInput!) { renameConversation(input: $in) { ` +
				change, in(map[string]any{"title": "ours"}), []string{"FORBIDDEN"}},
			{ann, `mutation($in: UpdateConversationSettingsInput!) {
				updateConversationSettings(input: $in) { ` +
				change, in(map[string]any{"membersMayRename": true}), nil},
			{bob, `mutation($in: RenameConversationInput!) { renameConversation(input: $in) { ` +
				change, in(map[string]any{"title": "ours"}), nil},
			{cat, `mutation($in: RenameConversationInput!) { renameConversation(input: $in) { ` +
				change, in(map[string]any{"title": "mine"}), []string{"NOT_FOUND"}},
			{
				ann, `mutation($in: AddMembersInput!) { addMembers(input: $in) { ` + change,
				in(map[string]any{"members": []any{map[string]any{"userId": bob.id}}}),
				[]string{"ALREADY_MEMBER input.members.0.userId"},
			},
			{
				ann, `mutation($in: AddMembersInput!) { addMembers(input: $in) { ` + change,
				in(map[string]any{"members": []any{map[string]any{"userId": cat.id}}}), nil,
			},
			{ann, `mutation($in: ChangeMemberRoleInput!) { changeMemberRole(input: $in) { ` +
				change, in(map[string]any{"userId": bob.id, "role": "ADMIN"}), nil},
			{
				bob, `mutation($in: RemoveMemberInput!) { removeMember(input: $in) { ` + change,
				in(map[string]any{"userId": ann.id}),
				[]string{"FORBIDDEN"},
			},
			{
				bob, `mutation($in: RemoveMemberInput!) { removeMember(input: $in) { ` + change,
				in(map[string]any{"userId": cat.id}), nil,
			},
			{ann, `mutation($in: LeaveConversationInput!) {
				leaveConversation(input: $in) { userErrors {
				code
				path } } }`, in(map[string]any{}), []string{"OWNER_REQUIRED input.conversationId"}},
			{ann, `mutation($in: TransferOwnershipInput!) { transferOwnership(input: $in) { ` +
				change, in(map[string]any{"userId": bob.id}), nil},
			{ann, `mutation($in: LeaveConversationInput!) {
				leaveConversation(input: $in) { userErrors {
				code path } } }`, in(map[string]any{}), nil},
			{
				ann, `query($in: ID!) { conversation(id: $in) { id } }`,
				map[string]any{"in": id},
				nil,
			},
		} {
			a := s.do(step.caller.token, step.query, step.variables)
			if diff := cmp.Diff(step.codes, a.codes()); diff != "" {
				t.Errorf("%.60s: %s\n%+v", step.query, diff, a)
			}
		}
		a := s.do(bob.token, `query($id: ID!) { conversation(id: $id) { title owner { nickname }
			members { nodes { user { nickname } role } } } }`, map[string]any{"id": id})
		want := map[string]any{"conversation": map[string]any{
			"title": "ours", "owner": map[string]any{"nickname": "bob"},
			"members": map[string]any{"nodes": []any{
				map[string]any{"user": map[string]any{"nickname": "bob"}, "role": "OWNER"},
			}},
		}}
		if diff := cmp.Diff(want, a.Data); diff != "" {
			t.Error(diff)
		}
	})
}

// A direct conversation is called after the partner, for both.
func TestDirectConversationOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		const open = `mutation($user: ID!) { openDirectConversation(input: {userId: $user}) {
			conversation { id kind title owner { id } memberCount } userErrors { code path } } }`
		anns := s.do(ann.token, open, map[string]any{"user": bob.id})
		bobs := s.do(bob.token, open, map[string]any{"user": ann.id})
		if a, b := anns.str(t, "openDirectConversation.conversation.id"), bobs.str(t,
			"openDirectConversation.conversation.id"); a != b {
			t.Errorf("%s and %s", a, b)
		}
		for partner, a := range map[string]answer{"bob": anns, "ann": bobs} {
			if got := a.str(t, "openDirectConversation.conversation.title"); got != partner {
				t.Errorf("called %q, want %q", got, partner)
			}
		}
		if got := anns.codes(); got != nil {
			t.Error(got)
		}
		a := s.do(ann.token, open, map[string]any{"user": ann.id})
		if diff := cmp.Diff([]string{"CONFLICT input.userId"}, a.codes()); diff != "" {
			t.Error(diff)
		}
		s.do(bob.token, `mutation { deleteAccount(input: {password: "a password of bob"}) {
			userErrors { code } } }`, nil)
		a = s.do(ann.token, `{ viewer { conversations { nodes { title memberCount } } } }`, nil)
		if got := a.str(t, "viewer.conversations.nodes.0.title"); got != "Deleted account" {
			t.Errorf("called %q", got)
		}
	})
}
