package graph_test

import (
	"testing"

	"parley/store"
	"parley/store/storetest"
)

const (
	changeSettings = `mutation($in: UpdateSettingsInput!) {
		updateSettings(input: $in) { userErrors { code } } }`
	removeMember = `mutation($c: ID!, $u: ID!) {
		removeMember(input: {conversationId: $c, userId: $u}) { userErrors { code } } }`
	deleteAccount = `mutation($in: DeleteAccountInput!) {
		deleteAccount(input: $in) { userErrors { code } } }`
)

func TestPresenceOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		s.mustConversation(ann, bob)
		o := s.mustDial(ann.token, nil).subscribe(`subscription {
			presenceChanged { userId user { nickname } online lastSeenAt } }`, nil)
		want := func(name any, online bool) {
			t.Helper()
			user := any(obj{"nickname": name})
			if name == nil {
				user = nil
			}
			o.wantNext(t, "presenceChanged", obj{
				"userId": bob.id, "user": user, "online": online,
				"lastSeenAt": nil,
			})
		}
		want("bob", false)
		s.mustDial(bob.token, nil)
		want("bob", true)
		s.must(bob, changeSettings, obj{"in": obj{"showPresence": false}})
		want("bob", false)
		s.must(bob, changeSettings, obj{"in": obj{"showPresence": true}})
		want("bob", true)
		s.must(bob, deleteAccount, obj{"in": obj{"password": "a password of bob"}})
		want(nil, false)
	})
}
