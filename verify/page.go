package verify

import (
	"context"
	"errors"
	"fmt"

	"parley/verify/judge"
)

// messagePage is a page of conversation.messages.
type messagePage struct {
	Messages struct {
		Nodes    []message
		PageInfo struct {
			HasNextPage bool
			EndCursor   string
		}
	}
}

var errNoConversation = errors.New("the conversation does not exist for its member")

// listPageSize is how many messages a page of the list at the end has.
const listPageSize = 100

// listMessages reads all messages of a conversation as its owner, page by page.
func (v *verification) listMessages(ctx context.Context, i int) (all []message, err error) {
	owner := v.people[v.plan.conversations[i].members[0]]
	const query = `query ($in: ID!) { conversation(id: $in) { messages(first: %d%s) {
		nodes { id seq content createdAt } pageInfo { hasNextPage endCursor } } } }`
	after := ""
	for {
		read := judge.Record{Limit: listPageSize, Final: true}
		if len(all) > 0 {
			read.After = all[len(all)-1].Seq
		}
		page, err := v.readPage(ctx, "reader", i, owner, fmt.Sprintf(query, listPageSize, after),
			read)
		if err != nil {
			return nil, err
		}
		for _, m := range page.Messages.Nodes {
			m.Content = brief(m.Content)
			all = append(all, m)
		}
		if !page.Messages.PageInfo.HasNextPage {
			return all, nil
		}
		after = fmt.Sprintf(", after: %q", page.Messages.PageInfo.EndCursor)
	}
}

// readNewest reads the newest messages of a conversation. Only the judges of the history file check
// what it returns.
func (s *sender) readNewest(ctx context.Context, conversation, member int) {
	const newest = 20
	query := fmt.Sprintf(`query ($in: ID!) { conversation(id: $in) { messages(last: %d) {
		nodes { id seq } } } }`, newest)
	_, err := s.readPage(ctx, s.process(), conversation, s.people[member], query,
		judge.Record{Newest: true, Limit: newest})
	if err != nil {
		s.history.failed(s.conversations[conversation], "a page of messages", err)
	}
}

// readPage reads one page, and records it.
func (v *verification) readPage(
	ctx context.Context, process string, i int, p *person, query string, read judge.Record,
) (*messagePage, error) {
	id := v.conversations[i]
	read.Process, read.Function, read.Conversation, read.User = process, judge.ReadPage, id, p.id
	op := v.invoke(read)
	var page *messagePage
	err := p.do(ctx, i, query, id, &page, op.unknown)
	if err == nil && page == nil {
		err = errNoConversation
	}
	if err != nil {
		op.fail(err)
		return nil, err
	}
	var items []judge.Item
	for _, m := range page.Messages.Nodes {
		items = append(items, judge.Item{Seq: m.Seq, ID: m.ID})
	}
	op.OK(judge.Record{Page: items})
	return page, nil
}
