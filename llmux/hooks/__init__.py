"""The owner's scripts: how they are started, limited, killed and heard."""
