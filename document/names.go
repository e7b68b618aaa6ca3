package document

import (
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/lexer"
)

// maxName is how many characters a name of a document may have. An unknown one is compared with all that it may have
// been meant for, in time that grows with its length, and comes back in each error about it.
const maxName = 255

// hasLongName reports whether one of the first tokens of a document is too long a name. Words in strings may be long,
// so a document that has any long word is read token by token.
func hasLongName(text string, tokens int) bool {
	if !hasLongWord(text) {
		return false
	}
	tokenizer := lexer.New(&ast.Source{Input: text})
	for range tokens {
		token, err := tokenizer.ReadToken()
		if err != nil || token.Kind == lexer.EOF {
			return false
		}
		if token.Kind == lexer.Name && len(token.Value) > maxName {
			return true
		}
	}
	return false
}

func hasLongWord(text string) bool {
	length := 0
	for i := range len(text) {
		if !inName(text[i]) {
			length = 0
			continue
		}
		if length++; length > maxName {
			return true
		}
	}
	return false
}

func inName(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
