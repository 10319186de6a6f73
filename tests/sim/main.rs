//! The same scenarios on the simulated servers and on the real ones, and the product on the simulation.

mod kubernetes;
mod metadata;
#[path = "../peers/mod.rs"]
mod peers;
mod product;
#[path = "../served/mod.rs"]
mod served;

/// Makes two tests of each scenario, one with a simulated server and one with the real one.
macro_rules! on_both {
    ($($scenario:ident),+ $(,)?) => {
        mod simulated {
            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$scenario(super::TestEnv::simulated().await).await;
                }
            )+
        }
        mod real {
            $(
                #[tokio::test]
                async fn $scenario() {
                    let Some(env) = super::TestEnv::real().await else { return };
                    super::$scenario(env).await;
                }
            )+
        }
    };
}
use on_both;
