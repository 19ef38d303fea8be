//! Transactions over several entities: nothing reaches the cache before the commit, and nothing of a rollback.
//!
//! It needs no server. `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! larder = { version = "0.1", features = ["sqlite"] }
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```

use std::error::Error as StdError;

use larder::{Cache, Cached, ErrorKind, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool};

/// With a version, a write that is based on an old row fails instead of undoing the other one.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts", strategy = "write_through")]
struct Account {
    #[cached(id)]
    id: i64,
    owner: String,
    cents: i64,
    #[cached(version)]
    version: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "transfers")]
struct Transfer {
    #[cached(id, generated)]
    id: i64,
    payer: i64,
    payee: i64,
    cents: i64,
}

struct Bank {
    pool: SqlitePool,
    accounts: AccountRepository<Sqlite>,
    transfers: TransferRepository<Sqlite>,
}

#[derive(Debug)]
enum TransferError {
    NoSuchAccount(i64),
    NotEnough { cents: i64 },
    Failed(larder::Error),
}

impl From<larder::Error> for TransferError {
    fn from(error: larder::Error) -> Self {
        Self::Failed(error)
    }
}

impl std::fmt::Display for TransferError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchAccount(id) => write!(f, "there is no account {id}"),
            Self::NotEnough { cents } => write!(f, "the account has only {cents} cents"),
            Self::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for TransferError {}

impl Bank {
    async fn open(pool: SqlitePool, cache: &Cache) -> Result<Self, Box<dyn StdError>> {
        let tables = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, cents BIGINT NOT NULL, version BIGINT NOT NULL);
                      CREATE TABLE transfers (id INTEGER PRIMARY KEY, payer BIGINT NOT NULL, payee BIGINT NOT NULL, cents BIGINT NOT NULL)";
        sqlx::raw_sql(tables).execute(&pool).await?;
        let bank = Self {
            accounts: Account::repository(cache, pool.clone()),
            transfers: Transfer::repository(cache, pool.clone()),
            pool,
        };
        bank.accounts.check_schema().await?.into_result()?;
        bank.transfers.check_schema().await?.into_result()?;
        Ok(bank)
    }

    /// Moves money. Begins again if another transfer has changed one of the accounts in between.
    async fn transfer(&self, payer: i64, payee: i64, cents: i64) -> Result<i64, TransferError> {
        loop {
            match self.try_transfer(payer, payee, cents).await {
                Err(TransferError::Failed(error)) if error.kind() == ErrorKind::Conflict => {}
                done => return done,
            }
        }
    }

    async fn try_transfer(&self, payer: i64, payee: i64, cents: i64) -> Result<i64, TransferError> {
        // If it is dropped before its commit, for example by the `?` below, it is rolled back.
        let mut transaction = Transaction::begin(&self.pool).await?;
        let mut accounts = self.accounts.within(&mut transaction);
        let from = accounts.find(payer).await?;
        let from = from.ok_or(TransferError::NoSuchAccount(payer))?;
        let to = accounts.find(payee).await?;
        let to = to.ok_or(TransferError::NoSuchAccount(payee))?;
        if from.cents < cents {
            return Err(TransferError::NotEnough { cents: from.cents });
        }
        accounts
            .update(&Account {
                cents: from.cents - cents,
                ..Account::clone(&from)
            })
            .await?;
        accounts
            .update(&Account {
                cents: to.cents + cents,
                ..Account::clone(&to)
            })
            .await?;
        let transfer = Transfer {
            id: 0,
            payer,
            payee,
            cents,
        };
        let transfer = self
            .transfers
            .within(&mut transaction)
            .insert(&transfer)
            .await?;
        let id = transfer.id;
        // Runs only if it is committed, and after every reader sees the new rows.
        transaction.after_commit(async move { println!("transfer {id} is done") });
        transaction.commit().await?;
        Ok(id)
    }

    /// Raw SQL: larder does not see which rows it changes, so it has to be told.
    async fn pay_interest(&self, percent: i64) -> Result<(), larder::Error> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        sqlx::query("UPDATE accounts SET cents = cents + cents * ? / 100, version = version + 1")
            .bind(percent)
            .execute(transaction.connection())
            .await
            .expect("the table is there");
        self.accounts.within(&mut transaction).mark_all_changed()?;
        transaction.commit().await
    }

    async fn cents(&self, id: i64) -> Result<i64, larder::Error> {
        let account = self.accounts.find(id).await?;
        Ok(account.map_or(0, |account| account.cents))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    // The database lasts as long as a connection to it, and a second one would wait for the locks of the first.
    let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await?;
    let bank = Bank::open(pool, &Cache::in_process()).await?;
    for (id, owner) in [(1, "Ada"), (2, "Bo")] {
        let account = Account {
            id,
            owner: owner.to_owned(),
            cents: 100,
            version: 1,
        };
        bank.accounts.insert(&account).await?;
    }

    bank.transfer(1, 2, 30).await?;
    assert_eq!((bank.cents(1).await?, bank.cents(2).await?), (70, 130));

    let refused = bank
        .transfer(1, 2, 1_000)
        .await
        .expect_err("there is not enough");
    println!("refused: {refused}");
    let refused = bank
        .transfer(1, 3, 10)
        .await
        .expect_err("there is no such payee");
    println!("refused: {refused}");
    assert_eq!((bank.cents(1).await?, bank.cents(2).await?), (70, 130));

    // A savepoint is undone alone.
    let mut transaction = Transaction::begin(&bank.pool).await?;
    let account = Account {
        id: 3,
        owner: "Cy".to_owned(),
        cents: 0,
        version: 1,
    };
    bank.accounts
        .within(&mut transaction)
        .insert(&account)
        .await?;
    let mut savepoint = transaction.savepoint().await?;
    let mut accounts = bank.accounts.within(&mut savepoint);
    if let Some(second) = accounts.find(2).await? {
        accounts.delete_row(&second).await?;
    }
    savepoint.rollback().await?;
    transaction.commit().await?;
    assert!(bank.accounts.exists(3).await? && bank.accounts.exists(2).await?);

    bank.pay_interest(10).await?;
    assert_eq!((bank.cents(1).await?, bank.cents(2).await?), (77, 143));
    println!("{:?}", bank.accounts.stats());
    Ok(())
}
