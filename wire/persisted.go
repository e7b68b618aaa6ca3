package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"parley/errs"
)

// Codes of errors about persisted queries, in extensions.code. The clients of Apollo react to them.
const (
	// the client sends the document
	PersistedNotFound errs.Code = "PERSISTED_QUERY_NOT_FOUND"
	// the client does not try again
	PersistedNotSupported errs.Code = "PERSISTED_QUERY_NOT_SUPPORTED"
)

const (
	maxPersisted     = 1000     // documents of clients that are kept
	maxPersistedSize = 16 << 10 // bytes of one document
)

// documents finds documents by their hash. If the operator has a list of trusted documents, these
// are the only ones. Otherwise they are the documents that clients have sent before (Apollo's
// automatic persisted queries).
type documents struct {
	trusted map[string]string // by hash; nil when all documents are answered
	sent    *lru.Cache[string, string]
}

func newDocuments(trusted []string) *documents {
	d := new(documents)
	if trusted != nil {
		d.trusted = make(map[string]string, len(trusted))
		for _, text := range trusted {
			d.trusted[Hash(text)] = text
		}
		return d
	}
	d.sent, _ = lru.New[string, string](maxPersisted) // fails only for sizes that are not positive
	return d
}

// Hash returns the hash of a document: SHA-256 in hexadecimal digits.
func Hash(document string) string {
	sum := sha256.Sum256([]byte(document))
	return hex.EncodeToString(sum[:])
}

// resolve sets p.Query if the request has only a hash. It refuses documents that are not trusted.
func (d *documents) resolve(p *params) *gqlerror.Error {
	hash, err := p.hash()
	if err != nil {
		return errorOf(err)
	}
	p.hashed = hash
	if d.trusted != nil {
		return d.requireTrusted(p, hash)
	}
	switch {
	case hash == "":
		return nil
	case p.Query == "":
		text, ok := d.sent.Get(hash)
		if !ok {
			return coded(PersistedNotFound, "PersistedQueryNotFound")
		}
		p.Query = text
	case Hash(p.Query) != hash:
		return coded(errs.BadUserInput, "The hash is not that of the query.")
	}
	return nil
}

func (d *documents) requireTrusted(p *params, hash string) *gqlerror.Error {
	if p.Query != "" {
		if actual := Hash(p.Query); hash == "" || hash == actual {
			hash = actual
		} else {
			return coded(errs.BadUserInput, "The hash is not that of the query.")
		}
	}
	text, ok := d.trusted[hash]
	if !ok {
		return coded(PersistedNotSupported,
			"This server answers only the documents that its operator has listed.")
	}
	p.Query = text
	return nil
}

// validated keeps a document that was sent together with its hash. It is called once the document
// was parsed and validated.
func (d *documents) validated(p *params) {
	if d.sent != nil && p.hashed != "" && len(p.Query) <= maxPersistedSize {
		d.sent.Add(p.hashed, p.Query)
	}
}

// hash returns the hash in the documentId or in the extension persistedQuery of a request; "" if it
// has neither.
func (p *params) hash() (string, error) {
	if p.documentID != "" {
		return normalHash(p.documentID)
	}
	extension, ok := p.Extensions["persistedQuery"]
	if !ok || extension == nil {
		return "", nil
	}
	fields, ok := extension.(map[string]any)
	if !ok {
		return "", errs.New(errs.BadUserInput, "The extension persistedQuery has to be an object.")
	}
	if version, ok := fields["version"].(json.Number); !ok || version != "1" {
		return "", errs.New(errs.BadUserInput,
			"The extension persistedQuery has to have the version 1.")
	}
	text, ok := fields["sha256Hash"].(string)
	if !ok {
		return "", errs.New(errs.BadUserInput,
			"The extension persistedQuery has to have a sha256Hash, which is a text.")
	}
	return normalHash(text)
}

// normalHash checks a hash, and returns it in lower case and without a prefix.
func normalHash(text string) (string, error) {
	digits := strings.ToLower(strings.TrimPrefix(text, "sha256:"))
	if b, err := hex.DecodeString(digits); err != nil || len(b) != sha256.Size {
		return "", errs.New(errs.BadUserInput,
			"A document is named by its SHA-256 in 64 hexadecimal digits.")
	}
	return digits, nil
}
