CREATE TABLE meta (
	name VARCHAR(32) NOT NULL, 
	value VARCHAR(64) NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE circuits (
	digest VARCHAR(64) NOT NULL, 
	qpy BLOB NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE TABLE calls (
	"key" VARCHAR(32) NOT NULL, 
	run VARCHAR(200) NOT NULL, 
	stage VARCHAR(200) NOT NULL, 
	subtask VARCHAR(200) NOT NULL, 
	problem VARCHAR(200) NOT NULL, 
	arm VARCHAR(200) NOT NULL, 
	repetition INTEGER NOT NULL, 
	ordinal INTEGER NOT NULL, 
	primitive VARCHAR(16) NOT NULL, 
	backend VARCHAR(100) NOT NULL, 
	calibration VARCHAR(100) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	content VARCHAR(64) NOT NULL, 
	seed BIGINT NOT NULL, 
	executions BIGINT NOT NULL, 
	projection VARCHAR(100) NOT NULL, 
	options TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempt INTEGER NOT NULL, 
	reused_from VARCHAR(32), 
	error TEXT, 
	cancel_requested FLOAT, 
	created FLOAT NOT NULL, 
	updated FLOAT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE batches (
	tag VARCHAR(32) NOT NULL, 
	lane VARCHAR(120) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	fence INTEGER NOT NULL, 
	job_id VARCHAR(100), 
	parts INTEGER NOT NULL, 
	executions BIGINT NOT NULL, 
	error TEXT, 
	estimate_s FLOAT, 
	max_qpu_s FLOAT, 
	billed_s FLOAT, 
	flagged BOOLEAN DEFAULT 0 NOT NULL, 
	duplicate_of VARCHAR(32), 
	created FLOAT NOT NULL, 
	updated FLOAT NOT NULL, 
	PRIMARY KEY (tag)
);
CREATE TABLE limits (
	scope VARCHAR(8) NOT NULL, 
	unit VARCHAR(8) NOT NULL, 
	value FLOAT NOT NULL, 
	PRIMARY KEY (scope, unit)
);
CREATE TABLE charges (
	tag VARCHAR(32) NOT NULL, 
	run VARCHAR(200) NOT NULL, 
	stage VARCHAR(200) NOT NULL, 
	day VARCHAR(10) NOT NULL, 
	share FLOAT NOT NULL, 
	reserved_s FLOAT NOT NULL, 
	billed_s FLOAT NOT NULL, 
	usd_per_s FLOAT NOT NULL, 
	PRIMARY KEY (tag, run, stage)
);
CREATE TABLE leases (
	lane VARCHAR(120) NOT NULL, 
	fence INTEGER NOT NULL, 
	holder VARCHAR(64), 
	host VARCHAR(300), 
	pid INTEGER, 
	started VARCHAR(32), 
	expires FLOAT NOT NULL, 
	PRIMARY KEY (lane)
);
CREATE TABLE projections (
	circuit VARCHAR(64) NOT NULL, 
	device VARCHAR(160) NOT NULL, 
	two_qubit_gates INTEGER NOT NULL, 
	duration_s FLOAT NOT NULL, 
	error TEXT, 
	PRIMARY KEY (circuit, device)
);
CREATE TABLE parts (
	call VARCHAR(32) NOT NULL, 
	position INTEGER NOT NULL, 
	part INTEGER NOT NULL, 
	start INTEGER NOT NULL, 
	circuit VARCHAR(64) NOT NULL, 
	request BLOB NOT NULL, 
	circuits INTEGER NOT NULL, 
	shots BIGINT NOT NULL, 
	batch VARCHAR(32), 
	slot INTEGER, 
	result BLOB, 
	usage TEXT, 
	facts TEXT, 
	estimate_s FLOAT DEFAULT '0' NOT NULL, 
	overhead_s FLOAT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (call, position, part), 
	FOREIGN KEY(call) REFERENCES calls ("key")
);
CREATE TABLE claims (
	scope VARCHAR(64) NOT NULL, 
	"key" VARCHAR(300) NOT NULL, 
	about VARCHAR(300) NOT NULL, 
	holder VARCHAR(64) NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (scope, "key")
);
CREATE INDEX calls_run ON calls (run, created);
CREATE INDEX calls_waiting ON calls (backend, state, created);
CREATE INDEX calls_content ON calls (content, state);
CREATE INDEX batches_unbilled ON batches (lane, billed_s);
CREATE INDEX batches_open ON batches (lane, state);
CREATE INDEX charges_day ON charges (day);
CREATE INDEX charges_run ON charges (run, stage);
CREATE INDEX ix_parts_batch ON parts (batch);
CREATE INDEX claims_about ON claims (scope, about, at);
INSERT INTO meta VALUES('schema','3');
INSERT INTO claims VALUES('curate-on-arrival','abc','march.parquet','0d4a3a0e-1111-4222-8333-444455556666',1795956211.0);
INSERT INTO limits VALUES('day','qpu_s',60.0);
