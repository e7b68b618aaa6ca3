package seed

import (
	"strconv"
	"time"

	"parley/auth"
	"parley/model"
	"parley/text"
)

// name is a nickname and a display name.
type name struct{ nickname, display string }

//nolint:gochecknoglobals // a constant table
var names = []name{
	{"ada", "Ada Lindqvist"},
	{"jonas", "Jonas Weber"},
	{"mira", "Mira Novák"},
	{"лев", "Лев Орлов"},
	{"aiko", "山田 愛子"},
	{"zoë", "Zoë Martin"},
	{"omar", "عمر حداد"},
	{"lucía", "Lucía Fernández"},
	{"wei", "王伟"},
	{"anita", "अनीता शर्मा"},
	{"rui", "Rui Tavares"},
	{"eleni", "Ελένη Παππά"},
	{"minji", "김민지"},
	{"bruno", "Bruno Costa"},
	{"sofia", "Sofia Rossi"},
	{"катя", "Катя Белова"},
	{"leila", "ليلى منصور"},
	{"finn", "Finn Ó Murchú"},
	{"priya", "प्रिया नायर"},
	{"kenji", "佐藤 健二"},
	{"marek", "Marek Dvořák"},
	{"noor", "Noor de Vries"},
	{"tomás", "Tomás Vega"},
	{"grete", "Grete Sørensen"},
	{"yusuf", "Yusuf Demir"},
	{"inès", "Inès Laurent"},
	{"olga", "Ольга Кузнецова"},
	{"hana", "鈴木 花"},
	{"david", "David Okafor"},
	{"mei", "陈梅"},
	{"łukasz", "Łukasz Zieliński"},
	{"rosa", "Rosa Almeida"},
	{"peter", "Peter Horváth"},
	{"nadia", "نادية سالم"},
	{"samuel", "Samuel Mensah"},
	{"élodie", "Élodie Petit"},
	{"ivan", "Иван Соколов"},
	{"tuulia", "Tuulia Mäkinen"},
	{"rahul", "राहुल वर्मा"},
	{"ewa", "Ewa Kowalska"},
}

// makePeople makes the accounts. They registered in the month before the year of conversations.
func (g *generator) makePeople() {
	month := 30 * day
	for i := range g.size.People {
		n := names[i%len(names)]
		if round := i / len(names); round > 0 {
			n.nickname += strconv.Itoa(round + 1)
		}
		at := g.now.Add(-year - month + time.Duration(i)*month/time.Duration(g.size.People)).
			Truncate(time.Microsecond)
		u := &model.User{
			ID: model.UserID(g.id(at)), Email: "person" + strconv.Itoa(i+1) + "@example.org",
			Nickname: n.nickname, CreatedAt: at,
			EmailVerifiedAt: &at, ShowPresence: g.chance(0.95), SendReadReceipts: g.chance(0.9),
		}
		if g.chance(0.8) {
			u.DisplayName = &n.display
		}
		u.EmailKey, u.NicknameKey = text.Fold(u.Email), text.Fold(u.Nickname)
		u.SearchKey = auth.SearchKey(u)
		g.people = append(g.people, u)
		g.languages = append(g.languages, g.among(len(languages)))
	}
}
