"""Words, genres and crowds that the generated sample is drawn from."""

GENRES: dict[str, tuple[float, str, str, str]] = {
    # genre: share of the catalogue, genres it mixes with, adjectives, nouns
    "Drama": (0.20, "Romance, War, Crime", "Quiet Broken Long Glass Faithful Bitter Gentle Borrowed",
        "Harbour Letter Orchard Daughter House Tide Piano Silence Lighthouse Staircase Window"),
    "Comedy": (0.16, "Romance, Musical, Animation", "Wrong Perfect Awkward Spare Unlikely Clumsy Reluctant",
        "Cousin Wedding Landlord Holiday Neighbour Parrot Diet Reunion Plumber Butler Moustache"),
    "Thriller": (0.11, "Crime, Horror, Action", "Cold Silent Double Blind Final Frozen Hidden Deadly",
        "Witness Signal Alibi Exit Hostage Pursuit Cipher Stranger Passenger Motive Trap"),
    "Romance": (0.09, "Drama, Comedy, Musical", "Tender Moonlit Distant Velvet Secret Summer Rosy Whispered",
        "Kiss Promise Waltz Sweetheart Valentine Garden Dance Heart Bouquet Embrace Serenade"),
    "Action": (0.09, "Thriller, Science Fiction, War", "Rapid Burning Lethal Steel Savage Explosive Armed",
        "Strike Fury Convoy Bullet Showdown Vengeance Squad Impact Ambush Commando Rampage"),
    "Science Fiction": (0.07, "Action, Thriller, Horror", "Orbital Electric Synthetic Lunar Alien Atomic",
        "Star Colony Android Planet Machine Nebula Orbit Spaceship Galaxy Comet Clone"),
    "Crime": (0.06, "Thriller, Drama, Comedy", "Crooked Dirty Stolen Midnight Guilty Marked Hardboiled",
        "Heist Detective Ledger Informer Diamond Racket Getaway Verdict Gangster Bribe Mobster"),
    "Horror": (0.06, "Thriller, Fantasy, Comedy", "Hollow Bleeding Cursed Buried Undead Rotting Unholy",
        "Crypt Scream Ghoul Asylum Coven Cellar Haunting Grave Vampire Mask Nightmare"),
    "Fantasy": (0.05, "Animation, Action, Romance", "Enchanted Silver Ancient Crimson Elven Magic Mystic",
        "Dragon Crown Sorcerer Kingdom Sword Witch Prophecy Griffin Amulet Wizard Unicorn Spell"),
    "Animation": (0.04, "Fantasy, Comedy, Musical", "Tiny Brave Fluffy Wobbly Sleepy Giggling Purple Cuddly",
        "Penguin Robot Hedgehog Balloon Kitten Teapot Snowman Rabbit Duckling Puppy Cupcake Piglet"),
    "Documentary": (0.04, "War, Musical, Drama", "Living True Unseen Vanishing Ordinary Recorded Deep",
        "Glacier River Archive Reef Century Harvest Volcano Workshop Atlas Rainforest Census"),
    "War": (0.03, "Drama, Action, Romance", "Fallen Iron Forward Scarlet Besieged Wounded Marching Occupied",
        "Regiment Trench Bridge Brigade Armistice Bunker Soldier Front Battalion Bugler Convoy"),
    "Western": (0.03, "Action, Drama, Comedy", "Dusty Lonesome Six-Gun Painted Wild Sundown",
        "Rider Canyon Sheriff Saddle Outlaw Stagecoach Ranch Mustang Prairie Saloon Posse"),
    "Musical": (0.03, "Comedy, Romance, Drama", "Dazzling Golden Tap-Dancing Brassy Jazzy",
        "Melody Chorus Stage Encore Trumpet Cabaret Songbird Overture Ballroom Rhythm Refrain"),
}  # fmt: skip

CROWDS: tuple[tuple[float, str, str, float], ...] = (
    # share of the users, genres they love, genres they avoid, preference for new items (−1: for old ones)
    (0.17, "Action, Science Fiction, Thriller", "Musical, Romance", 0.5),
    (0.15, "Romance, Comedy, Musical", "Horror, War", 0.3),
    (0.13, "Drama, War, Documentary", "Animation, Action", -0.5),
    (0.12, "Animation, Fantasy, Comedy", "Crime, War", 0.3),
    (0.12, "Crime, Thriller, Drama", "Fantasy, Musical", 0.0),
    (0.11, "Horror, Thriller, Science Fiction", "Romance, Documentary", 0.4),
    (0.10, "Fantasy, Science Fiction, Animation", "Drama, Western", 0.2),
    (0.10, "Western, War, Crime", "Romance, Animation", -1.0),
)

PLACES = (
    "Avonlea Bergamo Cadiz Dunmore Elmstead Fairhaven Galway Halden Ithaca Jericho Kilmore Lisbon Marrow "
    "Nantes Oakridge Palermo Quincy Ravenna Salcombe Tarragona Ullswater Verona Whitby Yarrow Zurich"
)
PEOPLE = (
    "Ada Boris Clara Dmitri Edith Felix Greta Hugo Ines Jonas Klara Leopold Mabel Nadia Oscar Petra Quentin "
    "Rosa Silas Tilda Ursula Viktor Wanda Xavier Yusuf Zelda"
)
PLAIN = "Last First Other Little Great Strange Endless Empty Northern Paper Winter Seventh Old Lost"
PATTERNS = (
    "The {adjective} {noun}", "{adjective} {noun}", "The {noun} of {place}", "{person}'s {noun}",
    "A {noun} for {person}", "The {noun} and the {other}", "{person} and the {adjective} {noun}",
    "{noun} at {place}", "The {adjective} {noun} of {place}", "Goodbye, {adjective} {noun}",
    "{adjective} {noun}, {plain} {other}",
)  # fmt: skip
PATTERN_SHARE = (0.24, 0.16, 0.11, 0.09, 0.07, 0.08, 0.08, 0.07, 0.05, 0.03, 0.02)
