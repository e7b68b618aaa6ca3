package document

// Coerce is what Read does with variables.
var Coerce = (*Reader).coerce
