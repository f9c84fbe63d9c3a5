BEGIN TRANSACTION;
CREATE TABLE batches (
	tag VARCHAR(32) NOT NULL, 
	lane VARCHAR(120) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	fence INTEGER NOT NULL, 
	job_id VARCHAR(100), 
	parts INTEGER NOT NULL, 
	executions BIGINT NOT NULL, 
	error TEXT, 
	created FLOAT NOT NULL, 
	updated FLOAT NOT NULL, 
	PRIMARY KEY (tag)
);
INSERT INTO "batches" VALUES('tag0','aer','DONE',1,'job0',1,100,NULL,1.5,2.5);
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
	created FLOAT NOT NULL, 
	updated FLOAT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "calls" VALUES('done0','run1','inference','pruning','p','qaoa',0,0,'sampler','aer','cal','mark','done0',5,100,'fake_torino','{}','DONE',1,NULL,NULL,1.5,2.5);
INSERT INTO "calls" VALUES('wait0','run1','inference','pruning','p','qaoa',0,0,'sampler','aer','cal','mark','wait0',5,100,'fake_torino','{}','PREPARED',1,NULL,NULL,1.5,2.5);
CREATE TABLE circuits (
	digest VARCHAR(64) NOT NULL, 
	qpy BLOB NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "circuits" VALUES('digest',X'71');
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
CREATE TABLE meta (
	name VARCHAR(32) NOT NULL, 
	value VARCHAR(64) NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('schema','2');
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
	PRIMARY KEY (call, position, part), 
	FOREIGN KEY(call) REFERENCES calls ("key")
);
INSERT INTO "parts" VALUES('done0',0,0,0,'digest',X'',1,100,'tag0',0,X'636F756E7473','{"cpu_s": 0.5}','{}');
INSERT INTO "parts" VALUES('wait0',0,0,0,'digest',X'72',1,100,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE projections (
	circuit VARCHAR(64) NOT NULL, 
	device VARCHAR(160) NOT NULL, 
	two_qubit_gates INTEGER NOT NULL, 
	duration_s FLOAT NOT NULL, 
	error TEXT, 
	PRIMARY KEY (circuit, device)
);
CREATE INDEX calls_content ON calls (content, state);
CREATE INDEX calls_waiting ON calls (backend, state, created);
CREATE INDEX calls_run ON calls (run, created);
CREATE INDEX batches_open ON batches (lane, state);
CREATE INDEX ix_parts_batch ON parts (batch);
COMMIT;
