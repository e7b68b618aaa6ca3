package graph_test

import (
	"testing"

	"parley/store"
	"parley/store/storetest"
)

func TestReadReceiptsOverTheWire(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db)
		ann, bob, cat, eve := s.mustRegister("ann"), s.mustRegister("bob"), s.mustRegister("cat"),
			s.mustRegister("eve")
		id := s.mustConversation(ann, bob)
		s.mustSay(ann, id, "2")
		s.mustSay(ann, id, "3")
		const query = `subscription($c: ID!) { readReceipts(conversationId: $c) {
			userId user { nickname } lastReadSeq } }`
		in := obj{"c": id}
		s.mustDial(eve.token, nil).subscribe(query, in).wantFailure(t, "NOT_FOUND")
		o := s.mustDial(ann.token, nil).subscribe(query, in)
		want := func(of person, name, seq any) {
			t.Helper()
			user := any(obj{"nickname": name})
			if name == nil {
				user = nil
			}
			o.wantNext(t, "readReceipts", obj{"userId": of.id, "user": user, "lastReadSeq": seq})
		}
		want(bob, "bob", 1.0)
		s.mustRead(bob, id, 3)
		want(bob, "bob", 3.0)
		s.must(bob, changeSettings, obj{"in": obj{"sendReadReceipts": false}})
		want(bob, "bob", nil)
		s.must(bob, changeSettings, obj{"in": obj{"sendReadReceipts": true}})
		want(bob, "bob", 3.0)
		s.must(ann, changeSettings, obj{"in": obj{"sendReadReceipts": false}})
		want(bob, "bob", nil)
		s.must(ann, changeSettings, obj{"in": obj{"sendReadReceipts": true}})
		want(bob, "bob", 3.0)
		s.must(ann, `mutation($c: ID!, $u: ID!) {
			addMembers(input: {conversationId: $c, members: [{userId: $u}]}) {
			userErrors { code } } }`,
			obj{"c": id, "u": cat.id})
		want(cat, "cat", 4.0)
		cats := s.mustDial(cat.token, nil).subscribe(query, in)
		for range 2 {
			cats.next(t, "readReceipts")
		}
		s.must(bob, deleteAccount, obj{"in": obj{"password": "a password of bob"}})
		want(bob, nil, nil)
		s.must(ann, removeMember, obj{"c": id, "u": cat.id})
		want(cat, "cat", nil)
		for {
			f := cats.frame()
			if f.Type == "next" { // bob's
				continue
			}
			if f.Type != "error" {
				t.Errorf("the end of a membership is %+v", f)
			}
			break
		}
	})
}
